"""Load and chaos on a real instance, for minutes or hours; everything random comes from a printed seed.

    python -m tests.soak [--minutes 5] [--seed N] [--sessions 200] [--workers 3]      (make soak)

Exit status 1 if anything does not hold that must; the folder with the log and the journals is kept then.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.harness.redis_server import MISSING
from tests.soak.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--store", choices=("redis", "json"), default="redis", help="of the sessions")
    options = parser.parse_args()
    if options.store == "redis" and shutil.which("redis-server") is None:
        parser.error(f"{MISSING}; or use --store json, without the faults of Redis")
    again = f"make soak MINUTES={options.minutes:g} SEED={options.seed} ARGS='--store {options.store}'"
    print(f"seed {options.seed}: {again}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    good = run(
        folder,
        seconds=options.minutes * 60,
        seed=options.seed,
        sessions=options.sessions,
        workers=options.workers,
        store=options.store,
    )
    if good:
        shutil.rmtree(folder)
    else:
        print(f"log and journals: {folder}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
