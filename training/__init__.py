"""What only train.py needs: options, samplers, the step, the optimizer."""
