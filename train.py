"""Train a network into model/<name>/ from a data folder in the University-1652 layout.

python train.py --name two_view --data_dir data/toy --train_all
python train.py --name two_view --resume            # continue an interrupted run exactly
python train.py --config recipes/strong.yaml --name strong --data_dir data/toy
torchrun --nproc_per_node 4 train.py --name two_view --data_dir data/toy       # on four GPUs
"""

import functools
import time
from contextlib import contextmanager

import utils
from imaging.files import TEXT
from networks.options import TEXT_CONFIG, TOKENIZER
from runtime import files, locks, processes, startup
from runtime.cli import script
from runtime.printing import first_line, quoted
from training import tensorboard
from training.options import ONCE, changed_options, need_state, parse_args

SNAPSHOT_EVERY = 10  # epochs


@script
def main(argv=None):
    """Train as the options say; returns the last epoch's record and the run folder."""
    opts = parse_args(argv)
    if opts.tensorboard:
        tensorboard.check()
    run_dir = utils.run_folder(opts.name)
    with locks.sole_writer(run_dir, "choose another --name"):
        return train(opts, run_dir)


def train(opts, run_dir):
    """Train into a run folder that no other process writes; returns as `main` does."""
    earlier = open_run(opts, run_dir)
    startup.import_torch()
    from training import build, pooled

    device = utils.select_device(opts.device, opts.gpu_ids)
    processes.join_processes(device)
    startup.keep_freed_memory()
    utils.seed_everything(opts.seed)
    data = build.open_data(opts, pin_memory=device.type == "cuda")
    classes = data.class_names
    network = build.build_network(opts, len(classes), classes, data.encoder)
    training = build.build_training(opts, network, device, len(classes))
    print(f"run {run_dir} on {device}:", *changed_options(opts))

    start, log = 0, []
    if opts.resume:
        start, log = load_epoch(run_dir, training, data, opts.other_images)
        earlier = announce_resumed(run_dir, opts, start)
    if start < opts.epochs:
        data = pooled.prepare(training, data, opts)
    if processes.is_main():
        for path in earlier:
            path.unlink(missing_ok=True)
        if data.tokenizer:
            data.save_words(run_dir)
        saved = {k: v for k, v in vars(opts).items() if k not in ONCE}
        counts = {"nclasses": len(classes), "views": len(opts.view_names)}
        utils.write_opts(run_dir, {**saved, **counts})
    with resumable(run_dir, opts), tensorboard.curves(run_dir, log, opts.tensorboard) as add:
        log = run_epochs(training, data, opts, run_dir, start, log, add)
        if processes.is_main():
            utils.save_tensors(run_dir / utils.LAST_WEIGHTS, training.evaluated.state_dict())
            draw_curves(run_dir / "train.jpg", log)
    print(f"weights: {run_dir / utils.LAST_WEIGHTS}, curves: {run_dir / 'train.jpg'}")
    return {**log[-1], "run_dir": str(run_dir)}


def run_epochs(training, data, opts, run_dir, start, log, add):
    """Train from epoch `start` to the end, writing each; returns the log.

    `add` is called with the record of each.
    """
    from training import engine, hard_negatives, optimisation, validation

    lr_factor = functools.partial(
        optimisation.learning_rate_factor,
        epochs=opts.epochs,
        schedule=opts.schedule,
        warm_epoch=opts.warm_epoch,
        warm_from=opts.warm_from,
        step_size=opts.step_size,
    )
    for epoch in range(start, opts.epochs):
        utils.seed_everything(opts.seed, epoch, processes.rank())
        began = time.perf_counter()
        hard_negatives.set_neighbours(training, data, opts, epoch)
        stats = engine.train_one_epoch(training, data, epoch, lr_factor)
        entry = {"epoch": epoch, **stats, "lr": opts.lr * lr_factor(epoch, 1.0)}
        if data.held_out and ((epoch + 1) % SNAPSHOT_EVERY == 0 or epoch + 1 == opts.epochs):
            entry.update(validation.validate(training, data, opts))
        entry["seconds"] = time.perf_counter() - began
        log.append(entry)
        print(format_epoch(entry, opts.epochs), flush=True)
        if processes.is_main():
            save_epoch(run_dir, training, data, epoch, log)
        add(entry)
    return log


# ---------------------------------------------------------------- run folder
def open_run(opts, run_dir):
    """The files of an earlier run in the run folder, which a new one deletes.

    Refuses to write over a finished or resumable run unless told to.
    """
    weights = [*run_dir.glob("net_*.pth"), *run_dir.glob("train_state.pth")]
    if opts.resume:
        need_state(run_dir)
    elif weights and not opts.overwrite:
        raise ValueError(
            f"{run_dir} already holds a trained run: continue it with --resume, replace it with "
            "--overwrite, or choose another --name"
        )
    if processes.is_main():  # which holds the lock: another run may be writing if it does not
        files.remove_partials(run_dir, "*.pth", "opts.yaml", "log.jsonl", "train.jpg")
    names = ("log.jsonl", "result.txt", "train.jpg", "model_card.md", TOKENIZER, TEXT_CONFIG)
    return [*weights, *(run_dir / name for name in names), *run_dir.glob(tensorboard.FILES)]


@contextmanager
def resumable(run_dir, opts):
    """Within, Ctrl-C says how the run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if not (run_dir / "train_state.pth").is_file():
            raise KeyboardInterrupt("no epoch was complete: begin again") from None
        start = "python" if opts.world_size == 1 else f"torchrun --nproc_per_node {opts.world_size}"
        command = f"{start} train.py --name {quoted(opts.name)} --resume"
        raise KeyboardInterrupt(f"go on with: {command}") from None


def announce_resumed(run_dir, opts, start):
    """Say after which epoch a run goes on; returns the files to delete."""
    print(f"resuming after epoch {start - 1}")
    if start >= opts.epochs:
        more = "give a larger --epochs to go on"
        if opts.schedule == "cosine":
            more = "its learning rate has come to zero"
        print(f"the run has its {start} epochs already: {more}")
        return []
    # The last weights go, or test.py would take them for those of this run's end.
    return [run_dir / utils.LAST_WEIGHTS]


def save_epoch(run_dir, training, data, epoch, log):
    """Write what an epoch leaves: weights and curves every tenth, the log, and, last, the state.

    The state comes last because it is what says that the epoch is complete: a run killed before it
    trains this epoch once more and writes the same files again.
    """
    if (epoch + 1) % SNAPSHOT_EVERY == 0:
        utils.save_tensors(run_dir / f"net_{epoch:03d}.pth", training.evaluated.state_dict())
        draw_curves(run_dir / "train.jpg", log)
    utils.write_log(run_dir, log)
    state = {
        "epoch": epoch,
        "class_names": data.class_names,
        "files": data.files,
        "neighbours": data.sampler.neighbours,
        **training.state(),
        "log": log,
    }
    utils.save_tensors(run_dir / "train_state.pth", state)


def load_epoch(run_dir, training, data, other_images=False):
    """Restore the last complete epoch; returns (the next epoch, the log so far).

    ValueError where the images have changed since, unless `other_images` are welcome.
    """
    path = run_dir / "train_state.pth"
    state = utils.load_tensors(path)
    try:
        if state["class_names"] != data.class_names:
            raise ValueError(
                f"{path} was trained on {len(state['class_names'])} buildings and --data_dir holds "
                f"{len(data.class_names)}, or others: give the data folder the run was begun with"
            )
        if not other_images:
            require_same_files(path, state.get("files", data.files), data.files)
        training.load_state(state, path)
        data.sampler.neighbours = state.get("neighbours")
        return state["epoch"] + 1, state["log"]
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not fit this run ({first_line(error)}): it was written by another "
            "version or is damaged; start again with --overwrite"
        ) from None


def require_same_files(path, before, now):
    """ValueError where the images of a view are not those of which the state at `path` tells."""
    for view, (count, _) in now.items():
        if before[view] != now[view]:
            kind, differing = ("texts", "words") if view == TEXT else (f"{view} images", "sizes")
            raise ValueError(
                f"{path} was trained on {before[view][0]} {kind}, and the {count} in --data_dir "
                f"have other names or {differing}: give those the run was begun with, or "
                "--other_images to go on with these"
            )


# ---------------------------------------------------------------- what a run shows
def draw_curves(path, log):
    """Draw loss, top-1 error and (where there is one) validation recall against the epoch."""
    epochs = [entry["epoch"] for entry in log]
    validated = [entry for entry in log if "val_recall@1" in entry]
    panels = 3 if validated else 2
    with utils.chart(path, (4.6 * panels, 3.6), panels) as axes:
        axes[0].plot(epochs, [entry["loss"] for entry in log], color="black")
        axes[0].set(title="Training loss", xlabel="epoch", ylim=(0, None))
        for key in dict.fromkeys(key for entry in log for key in entry if key.startswith("error_")):
            errors = [entry.get(key, float("nan")) for entry in log]
            axes[1].plot(epochs, errors, label=key.removeprefix("error_"))
        axes[1].set(title="Top-1 training error (%)", xlabel="epoch", ylim=(0, 100))
        if axes[1].lines:  # no classifier is trained without the instance loss
            axes[1].legend(frameon=False)
        if validated:
            for key, label in (("val_recall@1", "Recall@1"), ("val_AP", "AP")):
                points = [entry[key] for entry in validated]
                measured = [entry["epoch"] for entry in validated]
                axes[2].plot(measured, points, marker="o", label=label)
            axes[2].set(title="Held-out buildings (%)", xlabel="epoch", ylim=(0, 100))
            axes[2].legend(frameon=False)


def format_epoch(entry, epochs):
    """The line printed for an epoch."""
    parts = [f"epoch {entry['epoch']}/{epochs - 1}", f"loss {entry['loss']:.4f}"]
    parts += [
        f"{key.replace('error_', 'error ')} {value:.2f}%"
        for key, value in entry.items()
        if key.startswith("error_")
    ]
    if "val_recall@1" in entry:
        parts.append(f"held-out R@1 {entry['val_recall@1']:.2f} AP {entry['val_AP']:.2f}")
    waiting = entry["seconds_waiting"] / entry["seconds"]
    times = f"{entry['seconds']:.1f} s ({waiting:.0%} waiting for images)"
    return "  ".join([*parts, f"lr {entry['lr']:.2g}", times])


if __name__ == "__main__":
    main()
