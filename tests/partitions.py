"""Partitions by slow and obvious ways, to compare with."""
import numpy as np


def flood(labels):
    "Connected components by a plain flood fill: {frozenset of pixels}."
    left, parts = {(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1])}, set()
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            part.add((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left and labels[near] == labels[y, x]:
                    left.remove(near)
                    edge.append(near)
        parts.add(frozenset(part))
    return parts


def sets(labels):
    return {frozenset(map(tuple, np.argwhere(labels == i).tolist())) for i in np.unique(labels)}


def ordered(labels):
    areas = np.bincount(labels.ravel())
    return labels.dtype == np.int64 and (areas > 0).all() and (np.diff(areas) <= 0).all()
