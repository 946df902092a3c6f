"""Take a trained run with you: a view of it as an ONNX file, checked against PyTorch.

python export.py --name two_view --view drone --output drone.onnx
python export.py --name two_view --view drone --output drone.onnx --fp16     # half the size

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
    add("--fp16", **SWITCH, default=False, help="weights in float16: half the size")
    opts = parser.parse_args(argv)
    if Path(opts.output).suffix != ".onnx":
        parser.error(f"--output {opts.output}: expected a name ending in .onnx")
    return opts


if __name__ == "__main__":
    main()
