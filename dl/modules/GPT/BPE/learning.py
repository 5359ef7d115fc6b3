"""Which pairs byte-pair encoding joins: algorithm 1 of Sennrich et al., with the counts kept up to date."""

import heapq
from collections import Counter, defaultdict

Pair = tuple[int, int]


def most_frequent_pairs(words: list[list[int]], counts: list[int], merges: int) -> list[Pair]:
    """Return the pairs that become tokens, in order. `words` are merged in place; word i is there counts[i] times."""
    frequency: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # the words that have a pair, or had it
    for i, word in enumerate(words):
        for pair in zip(word, word[1:]):
            frequency[pair] += counts[i]
            where[pair].add(i)
    heap = [(-count, pair) for pair, count in frequency.items()]
    heapq.heapify(heap)
    chosen: list[Pair] = []
    while heap and len(chosen) < merges:
        count, pair = heapq.heappop(heap)
        if -count != frequency[pair]:  # changed since it was put there
            if frequency[pair]:
                heapq.heappush(heap, (-frequency[pair], pair))
            continue
        new = 256 + len(chosen)
        chosen.append(pair)
        grown: set[Pair] = set()
        for i in where.pop(pair):
            old, word = words[i], _joined(words[i], pair, new)
            for gone in zip(old, old[1:]):
                frequency[gone] -= counts[i]
            for there in zip(word, word[1:]):
                frequency[there] += counts[i]
                if new in there:
                    where[there].add(i)
                    grown.add(there)
            words[i] = word
        for there in grown:
            heapq.heappush(heap, (-frequency[there], there))
    return chosen


def _joined(word: list[int], pair: Pair, new: int) -> list[int]:
    """Return the word with `new` for each `pair`, from left to right."""
    joined: list[int] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and word[i] == pair[0] and word[i + 1] == pair[1]:
            joined.append(new)
            i += 2
        else:
            joined.append(word[i])
            i += 1
    return joined
