"""prepare.py show: the picture of a data folder."""

from conftest import fails
from PIL import Image

import prepare
from sources.show import TILE


def test_picture_of_the_views(toy, workdir, capsys):
    result = prepare.main(["show", str(toy), "--buildings", "2", "--output", "v.png"])
    assert len(result["buildings"]) == 2
    with Image.open("v.png") as picture:
        # satellite, drone (two frames: the first is shown), street, google, three descriptions
        assert picture.size == (7 * TILE, 2 * TILE)
        assert len(picture.getcolors(maxcolors=1 << 20)) > 1000
    fails(prepare.main, ["show", "absent"], capsys, "data folder absent not found")
    fails(prepare.main, ["show", ""], capsys, "show: error: argument folder: nothing is given")
