"""Make, check and convert data folders in the University-1652 layout.

python prepare.py toy --out data/toy                    # render the toy campus
python prepare.py check data/toy                        # what is there, what is missing
python prepare.py cvusa downloads/CVUSA --out data/cvusa    # a public data set, by links
python prepare.py pairs pairs.csv --out data/mine       # your own images
python prepare.py pairs photos --map map.tif --out data/mine    # photos with GPS, and a map
python prepare.py wx data/toy --out data/wx             # the test images in ten kinds of weather
python prepare.py tiles map.tif --out data/map          # a georeferenced map, for locate.py

Each sub-command stands in sources/, its options beside it; a new one is a module there and its name
in SOURCES.
"""

from runtime.cli import Parser, example_in, script
from sources import (
    check,
    drones,
    geotext,
    own_pairs,
    panoramas,
    show,
    tiles,
    toy,
    university,
    vigor,
)

SOURCES = (toy, check, show, panoramas, vigor, drones, university, geotext, own_pairs, tiles)
COMMANDS = {command.name: command for source in SOURCES for command in source.COMMANDS}


def parse_args(argv=None):
    """Options: the name of a sub-command, and the options of that one."""
    parser = Parser(
        description="Make, check and convert data folders in the University-1652 layout.",
        epilog=example_in(__doc__),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about, _, options, example, description in COMMANDS.values():
        example = f"example: python prepare.py {name} {example}"
        subparser = commands.add_parser(name, help=about, description=description, epilog=example)
        for names, settings in options:
            subparser.add_argument(*names, **settings)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Run a sub-command; returns what it found or made."""
    opts = parse_args(argv)
    return COMMANDS[opts.command].run(opts)


if __name__ == "__main__":
    main()
