"""Which options of train.py contradict each other, and which need others: two tables, one loop."""

from imaging.files import TEXT
from imaging.turns import turns_of
from networks.options import RINGS

# Defaults that rules below ask for.
LOOK_EVERY, WARM_FROM, EMBEDDING, TOKENS, TEXT_LR = 4, 0.1, 512, 128, 0.1
PAIR_LOSSES = ("circle", "contrast", "triplet", "lifted")  # of images of one group


def input_views(opts):
    """The views the network is called with, in order; a view may be absent from a batch."""
    return [*opts.view_names, *(["google"] if opts.extra_Google else [])]


def _unpaired(opts):
    """Whether a view shows a building once in a batch, and no loss looks across views."""
    return opts.sampler == "paired" and opts.images_per_building == 1 and not opts.loss_merge


def _pretrained_text(opts):
    """Whether there is a text model that others have trained."""
    return TEXT in opts.view_names and opts.text_backbone != "small"


# fmt: off
# Options that contradict each other, and what to say.
EXCLUDES = (
    (("no_pretrained", "weights"), "--no_pretrained and --weights FILE contradict each other"),
    *((("init", name),
       f"--init takes all weights from another run: leave --{name} out")
      for name in ("no_pretrained", "weights", "ibn_weights")),
    (("fp16", "bf16"), "--fp16 and --bf16 contradict each other: choose one"),
    (("resume", "overwrite"), "--resume and --overwrite contradict each other"),
    *(((name, "cache"),
       "--cache keeps resized images, and --color_jitter, --DA and --weather change an image "
       "before it is resized: use one or the other")
      for name in ("color_jitter", "DA", "weather")),
    *((("turns", name), f"--turns and --{name} contradict each other: choose one")
      for name in ("no_turn", "joint_turns")),
    (("no_flip", "joint_flips"), "--no_flip and --joint_flips contradict each other: choose one"),
    (("no_pretrained", "ibn_weights"),
     "--no_pretrained and --ibn_weights FILE contradict each other"),
    (("musenet", "grad_checkpoint"),
     "--musenet has no gradient checkpointing: leave --grad_checkpoint out"),
    *((("freeze", name),
       f"--{name} puts new parts inside the backbone, which --freeze would leave untrained: use "
       "one or the other")
      for name in ("usam", "musenet")),
    *((("compile", name),
       "--compile saves memory its own way: drop --micro_batchsize, --grad_checkpoint")
      for name in ("micro_batchsize", "grad_checkpoint")),
)
# What is asked for, what it needs, and what to say where that is not so.
NEEDS = (
    (lambda o: True, lambda o: not o.name.endswith(".zip"),
     "--name {name} is a shared run, which is only read: choose another name for the new run, and "
     "--init {name} to start from it"),
    (lambda o: o.other_images, lambda o: o.resume,
     "--other_images goes with --resume: a run that begins takes the images it finds"),
    (lambda o: o.extra_Google, lambda o: len(o.view_names) == 3 and TEXT not in o.view_names,
     "--extra_Google adds to the street branch of three views: give --views 3, or "
     "--no-extra_Google where a recipe has set it"),
    *((lambda o, name=name, usual=usual: getattr(o, name) != usual and not o.resume,
       lambda o: TEXT in o.view_names, f"--{name} goes with a view of texts, as --views text,drone")
      for name, usual in (("text_backbone", "small"), ("text_pool", "mean"),
                          ("text_tokens", None))),
    (lambda o: o.text_lr != TEXT_LR and not o.resume,
     lambda o: _pretrained_text(o) and (o.train_text or not o.freeze),
     "--text_lr is of a pretrained text model that trains: leave it out"),
    (lambda o: o.train_text, lambda o: _pretrained_text(o) and o.freeze,
     "--train_text goes with --freeze and a pretrained --text_backbone: all others train anyway"),
    (lambda o: o.compile, lambda o: TEXT not in o.view_names,
     "--compile would compile anew for each length of a batch of texts: leave it out"),
    (lambda o: o.text_pool == "cls", lambda o: not o.text_backbone.startswith("open_clip:"),
     "--text_pool cls has no meaning with {text_backbone}, which pools at the end of a text"),
    (lambda o: True, lambda o: o.pad < min(o.h, o.w),
     "--pad {pad} does not fit images of {h} x {w}: lower it"),
    (lambda o: o.stride == 1, lambda o: o.backbone != "vgg16_bn",
     "--stride 1 changes a ResNet's last stage; vgg16_bn has none"),
    (lambda o: o.train_blocks, lambda o: o.freeze,
     "--train_blocks {train_blocks} are the blocks that train where others do not: add --freeze"),
    (lambda o: o.weather, lambda o: "drone" in o.view_names,
     "--weather is drawn on drone images, and --views has none"),
    (lambda o: o.musenet, lambda o: o.weather,
     "--musenet learns to tell the weather: give some to learn, --weather all"),
    (lambda o: o.btnk, lambda o: o.musenet, "--btnk goes with --musenet: add it"),
    (lambda o: o.ibn_weights, lambda o: o.musenet, "--ibn_weights goes with --musenet: add it"),
    (lambda o: o.loss_weights.get("weather"), lambda o: o.musenet,
     "the weather loss judges the weather that --musenet sees: add it"),
    (lambda o: o.sync_bn, lambda o: o.world_size > 1,
     "--sync_bn joins the batches of several processes: start them with torchrun"),
    (lambda o: o.micro_batchsize, lambda o: o.micro_batchsize <= o.batchsize,
     "--micro_batchsize {micro_batchsize} is above --batchsize {batchsize}"),
    *((lambda o, name=name, usual=usual: getattr(o, name) != usual,
       lambda o: o.sampler == "paired",
       f"--{name} goes with --sampler paired, not with {{sampler}}")
      for name, usual in (("epoch_over", None), ("epoch_passes", 1), ("images_per_building", 1),
                          ("joint_flips", False), ("joint_turns", False),
                          ("hard_negatives", "none"))),
    (lambda o: o.joint_turns, lambda o: set(o.view_names) == {"satellite", "street"},
     "--joint_turns rolls a panorama with its satellite image: give --views satellite,street"),
    (lambda o: o.joint_turns and not o.no_turn, lambda o: o.h == o.w,
     "--joint_turns turns satellite images by 90 degrees, and {h} x {w} is not square: make --h "
     "and --w alike, or give --no_turn where they are in polar coordinates"),
    (lambda o: o.hard_negatives_every != LOOK_EVERY and not o.resume,
     lambda o: o.hard_negatives in ("similarity", "both"),
     "--hard_negatives_every goes with --hard_negatives similarity or both: add it"),
    (lambda o: o.hard_negatives == "similarity", lambda o: o.epochs > o.hard_negatives_every,
     "--hard_negatives similarity looks every {hard_negatives_every} epochs, never in {epochs}: "
     "lower --hard_negatives_every, or use both"),
    (lambda o: o.epoch_over, lambda o: o.epoch_over in o.view_names,
     "--epoch_over {epoch_over} is none of {views}"),
    (lambda o: True, lambda o: o.images_per_building <= o.batchsize,
     "--images_per_building {images_per_building} does not fit in --batchsize {batchsize}"),
    *((lambda o, name=name: o.loss_weights.get(name), lambda o: not _unpaired(o),
       f"the {name} loss has nothing to compare: a view shows a building once in a batch; add "
       "--loss_merge or --images_per_building 2")
      for name in PAIR_LOSSES),
    (lambda o: o.step_size and not o.resume, lambda o: o.schedule == "step",
     "--step_size goes with --schedule step, not with {schedule}"),
    (lambda o: o.warm_from != WARM_FROM and not o.resume, lambda o: o.warm_epoch,
     "--warm_from {warm_from} is where the rise of --warm_epoch begins: add it"),
    (lambda o: o.block != RINGS and not o.resume, lambda o: o.LPN or "rings" in o.pool,
     "--block {block} is the number of rings of --LPN or --pool rings: add it"),
    (lambda o: 4 in [turns_of(o.turns, view) for view in input_views(o)], lambda o: o.h == o.w,
     "--turns turns images by 90 degrees, and {h} x {w} is not square: make --h and --w alike"),
    (lambda o: o.whiten, lambda o: o.center,
     "--whiten takes directions about the mean of each view: add --center, or give --whiten 0 "
     "where a recipe has set it"),
    (lambda o: isinstance(o.turns, dict), lambda o: {*o.turns} <= {*input_views(o)},
     "--turns names a view that is none of {views}"),
    (lambda o: "last" not in o.maps, lambda o: o.freeze and not o.train_blocks,
     "--maps without last leaves the last blocks without use: add last, or --freeze all"),
    (lambda o: o.embedding_dim != EMBEDDING and not o.resume, lambda o: o.head != "none",
     f"--head none has no --embedding_dim: leave it out, or give --embedding_dim {EMBEDDING} where "
     "a recipe has set another"),
    (lambda o: True, lambda o: o.moving_avg > 0,
     "--moving_avg 0 would keep no average: give a decay such as 0.999, or 1"),
    (lambda o: True, lambda o: o.droprate < 1,
     "--droprate 1 would drop everything: give less than 1"),
)
# fmt: on


def check_combinations(parser, opts):
    """End the program with the first rule of EXCLUDES and NEEDS that the options break."""
    asked = {name for name, value in vars(opts).items() if value}
    if opts.cache == "none":
        asked.remove("cache")
    broken = [text for names, text in EXCLUDES if asked.issuperset(names)]
    broken += [text for is_asked, needs, text in NEEDS if is_asked(opts) and not needs(opts)]
    if broken:
        parser.error(broken[0].format(**vars(opts), views=", ".join(opts.view_names)))
