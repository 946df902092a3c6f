"""Networks of the timm package: their names, building them for images of any size, their weights.

The branch around them is in networks/timm_branch.py.
"""

import sys

from runtime.optional import require

TIMM = "timm:"
FAILURES = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)


def timm_package():
    """The package, or ValueError that says how to install it."""
    return require("timm", f"--backbone {TIMM}NAME", "timm")


def timm_config(name):
    """timm's `PretrainedCfg` of the model `timm:NAME`; ValueError where timm has no such model."""
    timm, model_name = timm_package(), name.removeprefix(TIMM)
    if not timm.is_model(model_name):
        raise ValueError(
            f"backbone {name!r}: timm {timm.__version__} has no model {model_name!r}; see "
            "timm.list_models()"
        )
    try:
        config = timm.get_pretrained_cfg(model_name)
    except RuntimeError as error:  # the part of the name after the dot, which names weights
        raise ValueError(f"backbone {name!r}: {error}") from None
    if config is None:
        raise ValueError(f"backbone {name!r} has no ImageNet weights in timm: choose another")
    return config


def build_timm(name, image_size=None):
    """A timm network with random weights and without its classifier, for (height, width) pixels.

    A transformer that can resample its positions in the forward pass keeps them at the size of its
    training, so that its weights do not depend on `image_size`: it has `dynamic_img_size` then.
    Another that timm builds for one size alone is built for `image_size` where timm can.
    """
    create, model_name = timm_package().create_model, name.removeprefix(TIMM)
    config = timm_config(name)
    if not config.fixed_input_size:
        return create(model_name, pretrained=False, num_classes=0)
    try:
        model = create(model_name, pretrained=False, num_classes=0, dynamic_img_size=True)
        if getattr(model, "dynamic_img_size", False):  # Swin before timm 1.0.31 passes it over
            return model
    except TypeError:  # its class has no such argument
        pass
    trained = tuple(config.input_size[1:])
    size = {} if image_size in (None, trained) else {"img_size": tuple(image_size)}
    try:
        return create(model_name, pretrained=False, num_classes=0, **size)
    except FAILURES:
        raise ValueError(
            f"backbone {name} takes images of {trained[0]} x {trained[1]} pixels, and timm cannot "
            f"build it for {image_size[0]} x {image_size[1]}: give --h {trained[0]} "
            f"--w {trained[1]}"
        ) from None


def converted_state(model, state):
    """A state dict by timm's rules for this class of models; as it is where they do not fit.

    Positions of another size are resampled, and names of the model's authors become timm's.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return convert(state, model) if convert else state
    except FAILURES:
        return state
