"""Retrieval among the held-out buildings, for the curve of a run."""

from evaluation.metrics import evaluate
from extract import view_features
from imaging.files import retrieval_labels
from imaging.turns import turns_of
from model import branch_numbers
from networks.inference import inference_copy
from runtime.processes import is_main


def validate(training, data, opts):
    """Recall@1 and AP, percent, of the last view -> the first; {} in all but the first process."""
    network = inference_copy(training.evaluated, training.precision)
    gallery_view, query_view = opts.view_names[0], opts.view_names[-1]
    numbers, label_of = branch_numbers(opts.view_names), retrieval_labels(data.held_out[query_view])
    query, gallery = (
        view_features(
            network,
            numbers[view],
            data.held_out[view],
            label_of,
            data.images[view],
            device=training.device,
            batch_size=opts.batchsize,
            num_workers=opts.num_workers,
            turns=turns_of(opts.turns, view),
            flip=not opts.no_flip,
            description=f"validation, {view}",
        )
        for view in (query_view, gallery_view)
    )
    if not is_main():
        return {}
    metrics = evaluate(query, gallery)
    return {"val_recall@1": metrics["recall@1"], "val_AP": metrics["AP"]}
