"""A network starts from the weights of another run (`--init`), wherever they fit."""

import re
from collections import Counter
from pathlib import Path

import model
import utils
from imaging.files import DRONE, SATELLITE, TEXT
from networks.musenet import ibn_state, is_ibn
from networks.run_options import network_options
from runtime.printing import quoted

ONE_MEAN = {"avg", "max", "gem"}  # pools that give one number a channel


def start_from(init, network, opts, class_names):
    """Load the weights of the run `init` into `network` where they fit, and print what did not.

    `opts` are those of the run that begins, of train.py, `class_names` its IDs.
    Branches are matched by view, heads by name. The layer of the classes is taken only from a run
    whose train_state.pth tells of the same classes. ValueError or FileNotFoundError where there is
    no such run, it has another backbone, or what is new would be frozen.
    """
    run_dir, checkpoint = find_run(init)
    if run_dir.resolve() == utils.run_folder(opts.name).resolve():
        raise ValueError(
            f"--init {init} is the run that this one would replace: choose another --name"
        )
    other, numbers, run_opts = model.read_run(run_dir, checkpoint)
    found = other.image_branch.backbone
    if found != opts.backbone:
        raise ValueError(
            f"{checkpoint} is of --backbone {found} and this run of {opts.backbone}, so nothing "
            f"fits: give --backbone {found}, or --init another run"
        )
    utils.require_finite(other.state_dict(), checkpoint)
    classes = class_difference(run_dir, run_opts["nclasses"], class_names)
    if opts.freeze and is_ibn(other.image_branch) and not is_ibn(network.image_branch):
        raise ValueError(
            f"{checkpoint} is a MuSe-Net, whose norms a plain backbone does not have, and --freeze "
            "would never train new ones: leave --freeze out, or --init another run"
        )
    if TEXT in opts.view_names and run_opts.get("text_backbone") != opts.text_backbone:
        numbers = {view: number for view, number in numbers.items() if view != TEXT}
    sides = network_options(run_opts, tuple(numbers)), vars(opts)
    pooling = pooling_changes(*sides)
    changes = pooling + head_changes(*sides)
    same_words = not pooling and run_opts.get("text_pool") == opts.text_pool
    taken, moved = load_branches(network, opts.view_names, other, numbers, checkpoint, same_words)
    if not changes:
        taken |= load_heads(network, other, classes is None)
        if network.center and (run_opts.get("train_blocks") or not run_opts.get("freeze")):
            taken |= load_means(network.center, opts.view_names, other.center, numbers)
    said = difference(network, taken, classes, in_words(changes, *sides))
    print(f"starts from {checkpoint}: {said}", end="")
    print("".join(f"; {view} from the {at} branch" for view, at in moved.items()))


def find_run(init):
    """(run folder, weights): `init` is a run of model/, a run folder, a bundle, or a weights file.

    A weights file is one of a run folder.
    """
    path = Path(init)
    bundled = path.suffix == ".zip"
    if path.is_file() and not bundled:
        if not (path.parent / "opts.yaml").is_file():
            raise FileNotFoundError(
                f"--init {init} has no opts.yaml of a run beside it: name a run, or give weights "
                f"of a backbone alone as --weights {quoted(init)}"
            )
        return path.parent, path
    if path.suffix == ".pth":
        raise FileNotFoundError(f"--init {init} not found: check the path")
    run_dir = utils.run_folder(init) if path.name == init or bundled else path
    return run_dir, utils.find_checkpoint(run_dir)


def class_difference(run_dir, count, class_names):
    """How the classes of a run differ from `class_names`, in words; None where they are the same.

    `count` is how many the run has; another data set can have as many.
    """
    if count != len(class_names):
        return f"{count} classes there, {len(class_names)} here"
    path = run_dir / "train_state.pth"
    if not path.is_file():
        return "no train_state.pth tells which classes"
    state = utils.load_tensors(path)
    same = isinstance(state, dict) and state.get("class_names") == class_names
    return None if same else "other classes"


# ---------------------------------------------------------------- what fits
def source_view(view, known):
    """The view of a run, among `known`, from whose branch that of `view` starts.

    A view that the run did not have starts from its drone: seen at a slant, a place has something
    of the view from the street and of that from above.
    """
    return next(name for name in (view, DRONE, SATELLITE, *known) if name in known)


def load_branches(network, view_names, other, numbers, source, same_words):
    """Load the branches of `other`, whose `numbers` by view are given, into those of a network.

    Returns (the names of what fitted, {view: another view, from whose branch it started}). The
    style network of a MuSe-Net starts from that of a MuSe-Net, else from the drone's branch, and a
    branch of texts from one of the same text model, if there is any: without `same_words`, where
    its features are to lie among others, its last layer is new.
    ValueError, naming the file `source`, where a backbone does not fit.
    """
    begins = {view: getattr(other, f"model_{number}") for view, number in numbers.items()}
    words = begins.pop(TEXT, None)
    pairs, moved, taken = {}, {}, set()
    first = next(view for view in view_names if view != TEXT)
    for number, view in enumerate(view_names, start=1):
        branch = getattr(network, f"model_{number}")
        if view == TEXT:
            state = words.state_dict() if words else {}
            if not same_words:
                state = {k: v for k, v in state.items() if not k.startswith("linear.")}
            taken |= {f"model_{number}.{key}" for key in load_fitting(branch, state)}
            continue
        shared = view != first and branch is network.image_branch  # starts as its first view
        at = source_view(first if shared else view, begins)
        if begins.get(view) is not begins[at]:
            moved[view] = at
        if not shared:
            pairs[f"model_{number}"] = branch, begins[at]
    if hasattr(network, "pt_model"):
        drone = begins[source_view(DRONE, begins)]
        pairs["pt_model"] = network.pt_model, getattr(other, "pt_model", drone)
    taken |= {f"{name}.{key}" for name, pair in pairs.items() for key in load_branch(*pair, source)}
    return taken, moved


def load_branch(branch, begins, source):
    """Load the tensors of the branch `begins` into another; the names of those that fitted."""
    expected, state = branch.model.state_dict(), begins.model.state_dict()
    if is_ibn(branch) and not is_ibn(begins):
        state = ibn_state(state)
    # The norms of an IBN-a network have no counterpart in a plain one, which keeps its.
    spare = expected if is_ibn(begins) and not is_ibn(branch) else {}
    branch.load_imagenet({**spare, **state}, source)
    taken = {
        f"model.{key}"
        for key in expected.keys() & state.keys()
        # Positions for another size are converted, GeM's exponents of another map are not.
        if "gem2." not in key or state[key].shape == expected[key].shape
    }
    others = {k: v for k, v in begins.state_dict().items() if not k.startswith("model.")}
    return taken | load_fitting(branch, others)  # USAM, and what is MuSe-Net's of the style


def pooling_changes(there, here):
    """The options by which two networks, of these options, pool their features in other ways."""
    options = there, here
    names = ["maps", "LPN"]
    if there["whiten"] or not ONE_MEAN.issuperset(each["pool"] for each in options):
        names.append("pool")  # else a channel keeps its meaning
    if all(each["LPN"] or "rings" in each["pool"] for each in options):
        names.append("block")
    if there["usam"]:  # attention that is added changes little as it begins
        names.append("usam")
    return [name for name in names if there[name] != here[name]]


def head_changes(there, here):
    """The options by which the heads of two networks, of these options, are of other kinds.

    A head is taken from another run where there are none of these, nor of `pooling_changes`: it
    knows the features it was trained on. Else it is new as a whole: what was trained has lost its
    meaning.
    """
    names = ["center", "whiten", "head"]
    if "none" not in (there["head"], here["head"]):
        names.append("embedding_dim")
    return [name for name in names if there[name] != here[name]]


def load_heads(network, other, same_classes):
    """Load what is in no branch; the names of what fitted.

    Directions of whitening go with the head that was trained on them. For the means see
    `load_means`.
    """
    return load_fitting(network, {
        name: value
        for name, value in other.state_dict().items()
        if not name.startswith(("model_", "pt_model.", "center.means"))
        and (same_classes or not of_classes(name))
    })  # fmt: skip


def load_means(center, view_names, other, numbers):
    """Set the means of a `Centring` to another's, by view; returns the name of what fitted.

    For a run that trained its backbone: its means are of the backbone as it was before, and its
    head has learnt with them. Where the backbone stood still, those of the new images serve better,
    which `training.pooled` takes.
    """
    views = [view for view in view_names if view != TEXT]
    known = [view for view in views if view in numbers]
    for view in known:
        center.set_mean(view_names.index(view) + 1, other.means[numbers[view] - 1])
    return {"center.means"} if known == views else set()


def load_fitting(module, state):
    """Load the tensors of `state` that `module` has in the same shape; their names."""
    expected = module.state_dict()
    fitting = {k: v for k, v in state.items() if k in expected and v.shape == expected[k].shape}
    module.load_state_dict(fitting, strict=False)
    return set(fitting)


# ---------------------------------------------------------------- what is said
def of_classes(name):
    """Whether a tensor of a network, by name, belongs to the layer of the classes."""
    return bool(re.match(r"classifier\d*\.classifier\.", name))


def in_words(names, there, here):
    """["--maps 2,3 there, last here", ...] for the names of options."""
    return [f"--{name} {spelt(there[name])} there, {spelt(here[name])} here" for name in names]


def spelt(value):
    """The value of an option as the command line has it, of a switch a word."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    words = ((None, 0), (False, "off"), (True, "on"))
    return next((word for special, word in words if value is special), value)


def difference(network, taken, classes, changes):
    """What of a network was not `taken`, in words.

    `classes` is `class_difference`; `changes`, of `in_words`, tell why a head is new.
    """
    # Each tensor once, where a shared branch has two names.
    names = dict([*network.named_parameters(), *network.named_buffers()]).keys()
    names &= network.state_dict().keys()
    left = names - taken
    if not left:
        return f"all {len(names)} tensors"
    notes = [f"classifier: {classes}"] if classes else []
    new = Counter(part_of(name) for name in left if not (classes and of_classes(name)))
    notes += [f"new: {', '.join(f'{part} ({n})' for part, n in sorted(new.items()))}"] * bool(new)
    notes += changes
    return f"all but {len(left)} of {len(names)} tensors ({'; '.join(notes)})"


def part_of(name):
    """The part of the network to which a tensor belongs: model_1.usam_1, model_1.model.gem2."""
    depth = 1 if not name.startswith(("model_", "center.")) else 3 if ".model." in name else 2
    return ".".join(name.split(".")[:depth])
