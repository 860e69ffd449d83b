"""UserPromptExpansion hook: remembers that a chat has begun to drive a loop, so that `keep_going.py` knows it.

Usage: python3 bind.py < EVENT.json
Exit codes: 0, whatever happens: the person's command always runs; a fault is told on stderr.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> int:
    try:
        event = json.loads(sys.stdin.buffer.read())
        import chats

        if event.get("command_name") in chats.COMMANDS:
            chats.bind(event["session_id"], event["command_name"], time.time())
    except Exception as error:
        print(f"The chat could not be bound to the loop, so it may end early: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
