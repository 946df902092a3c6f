"""Take a trained run with you: a view of it as an ONNX file, checked against PyTorch.

python export.py --name two_view --view drone --output drone.onnx
python export.py --name two_view --view drone --output drone.onnx --fp16     # half the size
python export.py --name two_view --view drone --output drone.onnx --int8 --data_dir data/toy

The file takes pixels and gives features: normalisation, mirror image, turns and length 1 are in it.
test.py and locate.py run from such files, one a view: --name drone.onnx,satellite.onnx
"""

from pathlib import Path

from imaging.files import TEST_VIEWS
from runtime import cli, startup
from runtime.cli import SWITCH, script


@script
def main(argv=None):
    """Write the file; returns what is said in it, a dict (`deploy.metadata`)."""
    opts = parse_args(argv)
    startup.import_torch()
    from deploy.onnx_export import export_view

    return export_view(opts)


def parse_args(argv=None):
    """Options of an export."""
    parser = cli.Parser(
        description="Write a view of a trained run as an ONNX file for other programs.",
        epilog=cli.example_in(__doc__),
    )
    cli.add_run_options(parser)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE.onnx", help="file to write; needs the packages "
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
    if Path(opts.output).suffix != ".onnx":
        parser.error(f"--output {opts.output}: expected a name ending in .onnx")
    return opts


if __name__ == "__main__":
    main()
