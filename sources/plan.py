"""What a public data set becomes in our layout.

A planner reads the folders and split files of one data set and says in a `Plan` which image, and
which text, goes where; it opens no image. `carry_out` (carry_out.py) then makes the links. Counts
called official are those of the data sets' papers and pages: published, not re-counted here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from imaging.files import list_classes
from runtime.files import table_text
from sources.reading import repetitions


class Entry(NamedTuple):
    """One image of the layout: where it comes from, where it goes, and what changes its pixels.

    What is drawn is a new image, of a `source` that need not be one itself: a map.
    """

    source: Path
    target: str  # such as train/drone/0839/image-01.jpeg
    change: Callable | None = None  # uint8 (H, W, 3) -> uint8 (H', W', 3)
    draw: Callable | None = None  # () -> uint8 (H, W, 3)


@dataclass
class Plan:
    """What a data set becomes. `official` is {folder: (classes, images)}.

    An official number is None where none was published, or a tuple where several are correct.
    """

    name: str
    entries: list = field(default_factory=list)
    empty_classes: list = field(default_factory=list)  # such as train/google/1057
    texts: dict = field(default_factory=dict)  # {train/text/0839/image-01.txt: its lines}
    sidecars: dict = field(default_factory=dict)  # {file name: text}
    official: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    mark: dict = field(default_factory=dict)  # what prepare.yaml keeps beside the options

    def add(self, folder, name, source, change=None):
        """Put an image into class `name` of a folder such as train/drone."""
        file_name = f"{source.stem}.jpg" if change else source.name
        self.entries.append(Entry(source, f"{folder}/{name}/{file_name}", change))

    def add_distinct(self, folder, paths):
        """Put files into a class folder, each once, renaming those whose name is taken.

        Returns their targets.
        """
        taken, targets = set(), []
        for path in dict.fromkeys(paths):
            name = path.name
            while name.lower() in taken:
                name = f"{path.stem}_{len(taken)}{path.suffix}"
            taken.add(name.lower())
            targets.append(f"{folder}/{name}")
            self.entries.append(Entry(path, targets[-1]))
        return targets

    def add_classes(self, folder, classes):
        """Put {ID: image paths} into a folder; a class without images stays as an empty one."""
        for name, paths in classes.items():
            for path in paths:
                self.add(folder, name, path)
            if not paths:
                self.empty_classes.append(f"{folder}/{name}")

    def add_layout(self, source, folders):
        """Take over those `folders` of a data folder in our layout that exist."""
        for folder in folders:
            if (source / folder).is_dir():
                self.add_classes(folder, list_classes(source / folder))

    def note_repeated(self, names, what):
        """Note names that are listed twice: in train and test, they would flatter the score."""
        repeated = repetitions(names)
        if repeated:
            self.notes.append(
                f"{len(repeated)} {what} are listed more than once, perhaps in train and test, "
                f"first {repeated[0]}"
            )

    def add_table(self, name, header, rows):
        """Put a CSV file beside the images."""
        self.sidecars[name] = table_text([header, *rows])

    def add_coordinates(self, rows):
        """coordinates.csv of rows (ID, latitude, longitude)."""
        self.add_table("coordinates.csv", ["building", "latitude", "longitude"], rows)
