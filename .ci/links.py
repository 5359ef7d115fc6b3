"""Ask every address in pages and docstrings once; exit with 1 and a line for each that is gone."""

import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = (
    "http://127.0.0.1",
    "http://localhost",
    "http://example.",
    "https://raw.githubusercontent.com/",
)  # the last: prefixes


def addresses(text: str) -> list[str]:
    """Return the addresses in a text without the punctuation that follows them, each once."""
    found = re.findall(r"https?://(?:\([^\s()]*\)|[^\s()<>\"'`{}|\\])+", text)
    found = [re.sub(r"[.,;:!?*]+$", "", url) for url in found]
    return [url for url in dict.fromkeys(found) if "." in url and not url.startswith(SKIPPED)]


def gone(url: str) -> str | None:
    """Return why the page is not there; None if it is, or if the server only refuses to be asked by a program."""
    request = urllib.request.Request(url.partition("#")[0], headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code in (404, 410) else None
    except OSError as error:
        return str(error)
    return None


def places(files: Iterable[Path]) -> dict[str, list[str]]:
    """Return address -> the files that name it."""
    found = defaultdict(list)
    for path in files:
        for url in addresses(path.read_text(encoding="utf-8")):
            found[url].append(path.relative_to(ROOT).as_posix())
    return found


if __name__ == "__main__":
    paths = [
        *ROOT.glob("*.md"),
        *ROOT.glob(".github/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("dl/**/*.md"),
        *ROOT.glob("data/*/*.md"),
        *ROOT.glob("dl/**/*.py"),
    ]
    named = places(path for path in paths if not path.name.startswith("test_"))
    with ThreadPoolExecutor(16) as pool:
        reasons = dict(zip(named, pool.map(gone, named)))
    dead = {url: reason for url, reason in reasons.items() if reason}
    sys.stdout.writelines(f"{url} ({reason}): {', '.join(named[url])}\n" for url, reason in dead.items())
    sys.exit(1 if dead else 0)
