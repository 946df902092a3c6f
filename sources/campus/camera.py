"""Pinhole cameras, and the spiral that the drone flies."""

from dataclasses import dataclass

import numpy as np

# The flight of University-1652: 54 frames, three turns, descending from 256 m to 121.5 m.
SPIRAL_FRAMES = 54
SPIRAL_TURNS = 3
SPIRAL_TOP, SPIRAL_BOTTOM = 256.0, 121.5  # altitudes, metres
TILT_TOP, TILT_BOTTOM = 80.0, 66.0  # camera elevation seen from the building, degrees
FAR = 5000.0  # metres; a camera this far off stands in for an orthographic one


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels: `axes` holds its right, up and forward directions."""

    eye: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 3)
    focal: float  # pixels
    size: int  # pixels, both ways

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Tangents of the pixel centres: right per column and up per row, each (size,)."""
        centre = (np.arange(self.size) + 0.5 - self.size / 2) / self.focal
        return centre, -centre

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column, row and depth (metres along the optical axis) of points (..., 3)."""
        right, up, depth = np.moveaxis((points - self.eye) @ self.axes.T, -1, 0)
        scale = self.focal / np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return self.size / 2 + right * scale, self.size / 2 - up * scale, depth

    def unproject(self, inverse: np.ndarray) -> np.ndarray:
        """World points (3, H * W) seen at inverse depths (H, W)."""
        across, upward = (line.astype(np.float32) for line in self.grid())
        depth = 1.0 / np.maximum(inverse, 1e-5)
        right, up, forward = self.axes.astype(np.float32)
        points = np.empty((3, *inverse.shape), np.float32)
        for axis in range(3):
            ray = np.add.outer(upward * up[axis] + forward[axis], across * right[axis])
            np.multiply(ray, depth, out=points[axis])
            points[axis] += np.float32(self.eye[axis])
        return points.reshape(3, -1)


def look_at(eye, target, span: float, size: int, up=(0.0, 0.0, 1.0), roll: float = 0.0) -> Camera:
    """Camera at `eye` whose picture is `span` metres wide at `target`, rolled by `roll` degrees."""
    eye, target = np.asarray(eye, float), np.asarray(target, float)
    distance = np.linalg.norm(target - eye)
    forward = (target - eye) / distance
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    lifted = np.cross(right, forward)
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    axes = np.stack([cos * right + sin * lifted, cos * lifted - sin * right, forward])
    return Camera(eye, axes, size * distance / span, size)


def drone_position(frame: int) -> tuple[float, float, float]:
    """East, north and altitude (metres) of spiral frame 1..54, relative to the building."""
    if not 1 <= frame <= SPIRAL_FRAMES:
        raise ValueError(f"drone frame is {frame}, expected 1..{SPIRAL_FRAMES}")
    progress = (frame - 1) / (SPIRAL_FRAMES - 1)
    altitude = SPIRAL_TOP + (SPIRAL_BOTTOM - SPIRAL_TOP) * progress
    tilt = np.radians(TILT_TOP + (TILT_BOTTOM - TILT_TOP) * progress)
    azimuth = 2 * np.pi * SPIRAL_TURNS * progress
    radius = altitude / np.tan(tilt)
    return float(radius * np.sin(azimuth)), float(radius * np.cos(azimuth)), altitude


def spiral_frames(count: int) -> list[int]:
    """Choose `count` of the 54 frames, evenly in altitude and well spread in azimuth."""
    if not 1 <= count <= SPIRAL_FRAMES:
        raise ValueError(f"drone_frames is {count}, expected 1..{SPIRAL_FRAMES}")
    # Equal steps alone would fall into step with the turns and see only one or two sides.
    chosen = [1]
    edges = np.linspace(1, SPIRAL_FRAMES + 1, count + 1).round().astype(int)
    for first, stop in zip(edges[1:-1], edges[2:], strict=True):
        gaps = [min(_azimuth_gap(frame, other) for other in chosen) for frame in range(first, stop)]
        chosen.append(int(first) + int(np.argmax(gaps)))
    return chosen


def _azimuth_gap(frame: int, other: int) -> float:
    """Angle between two frames as seen from the building, as a share of a turn (0..0.5)."""
    turns = SPIRAL_TURNS * (frame - other) / (SPIRAL_FRAMES - 1) % 1.0
    return round(min(turns, 1.0 - turns), 6)
