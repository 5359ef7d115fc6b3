"""What the tests take, in multiples of `import torch`, beside the budgets: on a machine that does nothing else.

`--suite` adds the whole suite.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
FOLDER = "dl/modules/CNN/LeNet"


def seconds(command: list[str]) -> float:
    """The least of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    unit = seconds([sys.executable, "-c", "import torch"])
    models = len(list(ROOT.glob("dl/modules/*/*/model.py")))
    rows = {
        "discovery of dl": (3.0, [*PYTEST, "--collect-only", "dl"]),
        f"discovery of {FOLDER}": (1.3, [*PYTEST, "--collect-only", FOLDER]),
        f"tests of {FOLDER}": (2.5, [*PYTEST, FOLDER]),
    }
    if "--suite" in sys.argv:
        rows["the suite"] = (8 + 0.4 * models, [*PYTEST, "-n", "auto"])
    print(f"import torch: {unit:.2f} s")
    for name, (budget, command) in rows.items():
        taken = seconds(command)
        print(f"{name}: {taken:.1f} s, {taken / unit:.1f} times import torch; budget {budget:.1f}")


if __name__ == "__main__":
    main()
