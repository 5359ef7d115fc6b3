"""Replay: a ring of transitions in a mapped file, which a killed run finds again as its checkpoint left it."""

import hashlib
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data.loader import Batch
from dl.mytorch.files import check, regular_file, room
from dl.mytorch.mapped import allocate

# B transitions of a batch, N environments

STATE = {"position": int, "count": int, "rows": int, "sha256": str}


class Replay:
    """The newest `capacity` rows of the ring in the file `path`; a row has one transition of each of `num_envs` environments.

    The file has 2 `spare` rows more, where `spare` is the number of rows that are written between two saves. So no row that
    last.pt or last-before.pt refers to is overwritten before the next save. The file is made at the first `add`.

    Next observations are stored by themselves: where an episode was truncated, the next one is its final observation, not the
    first of the episode after it. `terminated` and `truncated` are two flags: only a termination has no value after it.

    Args:
        observation, action: shape and dtype of one, as a space of gymnasium has them.
    """

    def __init__(
        self,
        path: Path | str,
        capacity: int,
        spare: int,
        observation: tuple[Sequence[int], Any],
        action: tuple[Sequence[int], Any],
        num_envs: int = 1,
    ) -> None:
        if min(capacity, num_envs) < 1 or spare < 0:
            raise ValueError(f"a ring of {capacity} + {spare} rows of {num_envs} environments")
        self.path, self.capacity, self.spare, self.num_envs = Path(path), capacity, spare, num_envs
        self.rows = capacity + 2 * spare
        self.position = self.count = 0  # the row to be written next; rows that can be drawn
        seen, done = (np.dtype(observation[1]), tuple(observation[0])), (np.dtype(action[1]), tuple(action[0]))
        self.dtype = np.dtype(
            [
                *(("observations", *seen), ("actions", *done), ("rewards", np.float32), ("next_observations", *seen)),
                *(("terminated", np.bool_), ("truncated", np.bool_)),
            ]
        )
        self.file: np.memmap | None = None
        self.ring: np.ndarray | None = None  # its content, (rows, N) of records

    def __len__(self) -> int:
        """Return how many transitions can be drawn."""
        return self.count * self.num_envs

    def add(self, **fields: Any) -> None:
        """Write a row: for each field (N, ...), in place of the oldest. Raises `UserError` if the disk has no room."""
        if self.ring is None:
            self._create()
        for name in self.dtype.names or ():
            self.ring[name][self.position] = fields[name]
        self.position = (self.position + 1) % self.rows
        self.count = min(self.count + 1, self.capacity)

    def draw(self, batch_size: int) -> Tensor:
        """Return where `batch_size` transitions are (B,), uniform with replacement, by torch's global generator."""
        drawn = torch.randint(len(self), (batch_size,))
        first = (self.position - self.count) * self.num_envs  # of the oldest row
        return (drawn + first) % (self.rows * self.num_envs)

    def gather(self, places: Tensor, gamma: float, n_step: int = 1) -> Batch:
        """Return the transitions at `places` (B,), each joined with up to `n_step` - 1 that followed it.

        "rewards" is the discounted sum of m <= n_step rewards: an episode's end, and the newest row, cut it. Then "discounts"
        is gamma^m, by which the value of "next_observations" counts; 0 where the episode was terminated.
        """
        row, env = np.divmod(places.numpy(), self.num_envs)
        age = (row - self.position + self.count) % self.rows  # 0 is the oldest
        first = last = self.ring[row, env]
        rewards, discounts, joined = first["rewards"].astype(np.float64), np.full(len(row), gamma), np.full(len(row), True)
        for k in range(1, n_step):
            joined &= ~(last["terminated"] | last["truncated"]) & (age + k < self.count)
            last = np.where(joined, self.ring[(row + k) % self.rows, env], last)
            rewards += gamma**k * last["rewards"] * joined
            discounts *= np.where(joined, gamma, 1)
        arrays = {
            "observations": first["observations"],
            "actions": first["actions"],
            "rewards": rewards.astype(np.float32),
            "next_observations": last["next_observations"],
            "discounts": np.where(last["terminated"], 0, discounts).astype(np.float32),
        }
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    # ---- saving ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what last.pt keeps: where the rows are, and their checksum. The rows themselves are on disk by then."""
        if self.file is not None:
            self.file.flush()
        return {"position": self.position, "count": self.count, "rows": self.rows, "sha256": self._sha256()}

    def load_state(self, state: Any) -> None:
        """Continue with the rows that `state` was about. Raises `UserError` if the file does not hold them any more."""
        check(state, STATE, "the state of the replay")
        position, count, rows = (state[name] for name in ("position", "count", "rows"))
        if not (0 <= position < rows and 0 <= count <= self.capacity <= rows):
            raise UserError(f"the state of the replay is damaged: row {position} of {rows}, {count} of {self.capacity} drawn")
        if rows < self.rows:
            raise UserError(
                f"{self.path} has room for {rows - self.capacity} rows between saves, not {2 * self.spare}: "
                "resume with a --save-every at most as large as before"
            )
        self.position, self.count, self.rows = position, count, rows
        if count:
            if regular_file(self.path).stat().st_size != rows * self.num_envs * self.dtype.itemsize:
                raise UserError(f"{self.path} does not have the {rows} rows of {self.num_envs} transitions that were saved")
            self._map()
        if self._sha256() != state["sha256"]:
            raise UserError(f"{self.path} was changed since it was written, or is damaged")

    def _create(self) -> None:
        """Make the file, with all its blocks: a disk that is full later would end the process with SIGBUS."""
        try:
            with open(self.path, "wb") as file:
                allocate(file.fileno(), self.rows * self.num_envs * self.dtype.itemsize)
        except OSError as error:
            raise UserError(f"no room for {self.path}: {error.strerror}{room(self.path.parent)}") from error
        self._map()

    def _map(self) -> None:
        self.file = np.memmap(self.path, self.dtype, "r+", shape=(self.rows, self.num_envs))
        self.ring = self.file.view(np.ndarray)  # whose rows are read in half of the time

    def _sha256(self) -> str:
        """Return the checksum of the rows that can be drawn, oldest first."""
        sha256 = hashlib.sha256()
        oldest = (self.position - self.count) % self.rows
        for start, stop in ((oldest, min(oldest + self.count, self.rows)), (0, oldest + self.count - self.rows)):
            if start < stop:
                sha256.update(self.ring[start:stop].view(np.uint8))
        return sha256.hexdigest()


class PrioritizedReplay(Replay):
    """Draws transitions whose TD error was large more often: Schaul et al. 2016, https://arxiv.org/abs/1511.05952.

    P(i) = p_i^alpha / sum_k p_k^alpha, p_i = |error| + eps (section 3.3, "proportional"). A new transition has the largest p
    so far, so that each is drawn soon.

    Deviation: no sum tree. Each draw adds up all priorities, which takes 0.1 ms for 100,000 and gathers no rounding errors.
    """

    EPS = 1e-6

    def __init__(self, *args: Any, alpha: float = 0.6, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alpha = alpha
        self.priorities = torch.zeros(self.rows * self.num_envs, dtype=torch.float64)  # p^alpha; 0 for what cannot be drawn
        self.largest = 1.0

    def add(self, **fields: Any) -> None:
        rows = self.priorities.view(self.rows, self.num_envs)
        if self.count == self.capacity:
            rows[(self.position - self.capacity) % self.rows] = 0
        rows[self.position] = self.largest
        super().add(**fields)

    def draw(self, batch_size: int) -> Tensor:
        """Return the places of transitions (B,): one from each of `batch_size` equal parts of the sum (appendix B.2.1)."""
        sums = self.priorities.cumsum(0)
        drawn = (torch.arange(batch_size) + torch.rand(batch_size, dtype=torch.float64)) / batch_size * sums[-1]
        return torch.searchsorted(sums, drawn, right=True).clamp_(max=int(torch.searchsorted(sums, sums[-1])))

    def weights(self, places: Tensor, beta: float) -> Tensor:
        """Return (N P(i))^-beta (B,) over the largest of the batch: at beta 1 the draws have no bias (section 3.4)."""
        probabilities = self.priorities[places] / self.priorities.sum()
        weights = (len(self) * probabilities) ** -beta
        return (weights / weights.max()).float()

    def update(self, places: Tensor, errors: Tensor) -> None:
        """Set the priorities of the transitions at `places` (B,) by their TD errors (B,)."""
        self.priorities[places] = (errors.double().abs() + self.EPS) ** self.alpha
        self.largest = max(self.largest, float(self.priorities[places].max()))

    def state(self) -> dict[str, Any]:
        return super().state() | {"priorities": self.priorities.clone(), "largest": self.largest}

    def load_state(self, state: Any) -> None:
        super().load_state(state)
        check(state, {"priorities": Tensor, "largest": float}, "the state of the replay")
        if state["priorities"].shape != (self.rows * self.num_envs,) or not (state["priorities"] >= 0).all():
            raise UserError("the state of the replay is damaged: its priorities")
        self.priorities, self.largest = state["priorities"].double(), state["largest"]
