"""`python -m reference_platform`: runs the platform until SIGINT or SIGTERM."""

import argparse
import asyncio
import os
import signal

from reference_platform.lies import METADATA
from reference_platform.server import Platform, lie_in_turns

CHAOS_EVERY = 60.0  # seconds for which each wrong answer is given


async def serve(options: argparse.Namespace) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    token = os.environ.get("PLATFORM_TOKEN")
    async with Platform(options.host, options.port, token=token, bait=options.bait) as platform:
        print(f"page      http://{platform.host}:{platform.port}/")
        print(f"endpoint  {platform.endpoint}    (platform.endpoint in agentapp.yaml)", flush=True)
        lying = None
        if options.chaos is not None:
            lying = asyncio.create_task(lie_in_turns(platform, options.chaos))
        await stopped.wait()
        if lying is not None:
            lying.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reference_platform",
        description="A small platform for instances of agentscope-supervisor. "
        "If PLATFORM_TOKEN is set, instances must send it as their bearer token.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=9400,
        help="port to listen on; 0 selects a free port (default: %(default)s)",
    )
    parser.add_argument(
        "--chaos",
        type=float,
        nargs="?",
        const=CHAOS_EVERY,
        metavar="SECONDS",
        help="give every kind of wrong answer in turn, each for SECONDS (default: %(const)g)",
    )
    parser.add_argument(
        "--bait",
        default=METADATA,
        help="target of the redirects among the wrong answers (default: %(default)s)",
    )
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
