"""How many scenes of 512 x 512 a core draws per second of its time; bar: 40. Best of five rounds, after a warm-up.

python benchmarks/scenes.py
"""

from __future__ import annotations

import os
import sys
import time

import cv2

from m2f_helpers.data.scenes import dataset


def main() -> int:
    cv2.setNumThreads(1)
    dataset.draw_scene(0)
    print(f"load {os.getloadavg()[0]:.1f}")
    met = True
    for domain in dataset.DOMAINS:
        seconds = []
        for _ in range(5):
            start = time.process_time()
            for seed in range(40):
                dataset.draw_scene(seed, domain, [512, 512])
            seconds.append(time.process_time() - start)
        rate = 40 / min(seconds)
        met &= rate >= 40
        print(f"{domain:5s} {rate:6.1f} pictures/s  {'' if rate >= 40 else 'MISSED'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
