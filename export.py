"""Take a trained run with you: a view of it as an ONNX file, or all of it as one zip file.

python export.py --name two_view --view drone --output drone.onnx
python export.py --name two_view --view drone --output drone.onnx --fp16     # half the size
python export.py --name two_view --view drone --output drone.onnx --int8 --data_dir data/toy
python export.py --name two_view --bundle two_view.zip               # to share, with a model card

An ONNX file, checked against PyTorch, takes pixels and gives features: normalisation, mirror image,
turns and length 1 are in it. test.py and locate.py run from such files, one a view: --name
drone.onnx,satellite.onnx

A zip file is named wherever a run is: --name two_view.zip. Its model card is model_card.md of the
run folder, which is made for you to fill in.
"""

from pathlib import Path

from imaging.files import TEST_VIEWS
from runtime import cli, startup
from runtime.cli import SWITCH, script


@script
def main(argv=None):
    """Write the file; returns its metadata (`deploy.metadata`), or of a zip file {name: bytes}."""
    opts = parse_args(argv)
    startup.import_torch()
    from deploy import bundle, onnx_export

    if opts.bundle:
        return bundle.export_bundle(opts.name, opts.which_epoch, opts.bundle)
    return onnx_export.export_view(opts)


def parse_args(argv=None):
    """Options of an export."""
    parser = cli.Parser(
        description="Write a view of a trained run as an ONNX file for other programs, or the run "
        "as a zip file for other people.",
        epilog=cli.example_in(__doc__),
    )
    cli.add_run_options(parser)
    add = parser.add_argument
    file = parser.add_mutually_exclusive_group(required=True)
    file.add_argument("--bundle", metavar="FILE.zip", help="file to write: weights as safetensors, "
        "opts.yaml, a model card; needs the package safetensors")  # fmt: skip
    file.add_argument("--output", metavar="FILE.onnx", help="file to write; needs the packages "
        "onnx, onnxscript and onnxruntime")  # fmt: skip
    add("--view", default="drone", choices=TEST_VIEWS, help="view whose features the file gives")
    add("--flips", **SWITCH, default=True, help="add image and mirror image, as test.py does: "
        "twice the work")  # fmt: skip
    cli.add_options(parser.add_mutually_exclusive_group(), [
        ("--fp16", SWITCH, False, "weights in float16: half the size, no faster on a CPU"),
        ("--int8", SWITCH, False,
         "the backbone in whole numbers of 8 bits: a quarter of the size, faster on a CPU; prints "
         "Recall@1 with and without"),
    ])  # fmt: skip
    add("--data_dir", metavar="DIR", help="data folder for --int8: ranges of the numbers are those "
        "on its images of the view, and Recall@1 that of its test")  # fmt: skip
    opts = parser.parse_args(argv)
    if opts.int8 != bool(opts.data_dir):
        parser.error("--int8 goes with --data_dir: give both, or neither")
    if opts.bundle:
        if Path(opts.bundle).suffix != ".zip":
            parser.error(f"--bundle {opts.bundle}: expected a name ending in .zip")
        for name in ("view", "flips", "fp16", "int8"):
            if getattr(opts, name) != parser.get_default(name):
                parser.error(f"--bundle shares the run as it is: leave --{name} out")
    elif Path(opts.output).suffix != ".onnx":
        parser.error(f"--output {opts.output}: expected a name ending in .onnx")
    return opts


if __name__ == "__main__":
    main()
