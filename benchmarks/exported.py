"""Each kind of network as an exported file: cosine with PyTorch and size, in float32 and float16.

python benchmarks/exported.py
python benchmarks/exported.py --only DINO                           # rows with this in their name

The networks have random weights and images of 64 x 64 pixels, DINOv2 of 56 x 56, ViT-B/32 of
224 x 224. A cell is empty, and the reason is told, where there is no file.
"""

import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import measure  # noqa: E402
import torch  # noqa: E402

import export  # noqa: E402
import model  # noqa: E402
import utils  # noqa: E402
from deploy.onnx_export import export_view  # noqa: E402
from runtime.cli import Parser, example_in, script  # noqa: E402
from runtime.progress import progress_bar  # noqa: E402

PLAIN = {"views": 2, "view_names": ["satellite", "drone"], "nclasses": 8, "h": 64, "w": 64,
         "backbone": "resnet18"}  # fmt: skip
THREE = {"views": 3, "view_names": ["satellite", "street", "drone"], "backbone": "resnet50"}
RINGS = {"maps": [2, 3, "last"], "pool": "rings", "center": True, "whiten": 64, "head": "linear",
         "turns": {"drone": 4}}  # fmt: skip
NETWORKS = {
    "ResNet-50, shared": {"backbone": "resnet50", "share": True},
    "ResNet-50, not shared": {"backbone": "resnet50"},
    "three views, street branch (ResNet-50)": THREE,
    "VGG16": {"backbone": "vgg16_bn"},
    "ConvNeXt-T": {"backbone": "convnext_tiny"},
    "Swin-T": {"backbone": "swin_t"},
    "ViT-B/32, class token": {"backbone": "vit_b_32", "pool": "cls", "h": 224, "w": 224},
    "timm ViT-S/16, cls+gem": {"backbone": "timm:vit_small_patch16_224", "pool": "cls+gem"},
    "timm DINOv2 ViT-S/14, class token": {"backbone": "timm:vit_small_patch14_dinov2",
                                          "pool": "cls", "h": 56, "w": 56},
    "timm EfficientNet-lite0": {"backbone": "timm:tf_efficientnet_lite0"},
    "LPN (ResNet-18)": {"LPN": True},
    "GeM (ResNet-18)": {"pool": "gem"},
    "USAM (ResNet-18)": {"usam": True},
    "MuSe-Net (ResNet-18)": {"musenet": True},
    "three maps in rings, centred, whitened, four turns (ResNet-18)": RINGS,
}  # fmt: skip


def write_run(options):
    """A run with random weights, model/run."""
    torch.manual_seed(0)
    network = model.model_from_opts(options)
    for name, buffer in network.named_buffers():
        if name.startswith("center."):  # zero until training sets them
            buffer.normal_()
    utils.write_opts(utils.run_folder("run"), options)
    utils.save_tensors(utils.run_folder("run") / "net_last.pth", network.state_dict())


def exported(view, *more):
    """(cosine, MB) of the view of the run as a file; without a file (None, None) and the reason."""
    argv = ["--name", "run", "--view", view, "--output", "x.onnx", *more]
    said = StringIO()
    try:
        with redirect_stdout(said):
            export_view(export.parse_args(argv))
    except ValueError as error:
        print(error, file=sys.stderr)
        return None, None
    patterns = r"PyTorch ([\d.]+)", r"([\d.]+) MB"
    return tuple(float(re.search(pattern, said.getvalue())[1]) for pattern in patterns)


def parse_args(argv=None):
    """Options of the table."""
    parser = Parser(description=__doc__.splitlines()[0], epilog=example_in(__doc__))
    add = parser.add_argument
    add("--only", default="", metavar="TEXT", help="rows with this text in their name")
    add("--json", metavar="FILE", help="write the numbers here too")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Export each network twice and print a table; returns what --json writes."""
    opts = parse_args(argv)
    target = opts.json and Path(opts.json).resolve()
    found, rows = {}, []
    names = [each for each in NETWORKS if opts.only in each]
    with measure.working_folder():
        for name in progress_bar(names, "networks", len(names)):
            options = PLAIN | NETWORKS[name]
            write_run(options)
            view = options["view_names"][1]  # drone, or street
            found[name] = {"fp32": exported(view), "fp16": exported(view, "--fp16")}
            measure.write_json(target, found)
            numbers = [number for pair in found[name].values() for number in pair]
            formats = (".6f", ".1f") * 2
            rows.append([name, *("" if n is None else format(n, f)
                                 for n, f in zip(numbers, formats, strict=True))])  # fmt: skip
    measure.print_table(rows, ["network", "cosine with PyTorch", "MB", "in float16: cosine", "MB"])
    return found


if __name__ == "__main__":
    main()
