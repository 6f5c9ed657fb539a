#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes a generated workload of conversations, in the form of published request traces.

One JSON object a line: timestamp (ms), input_length and output_length (tokens), hash_ids (the prompt's
blocks of 512 tokens, in order; equal ids mean equal prefix up to and including that block).

Statistics, all drawn from one seeded generator:
- sessions arrive as a Poisson process over one hour;
- each begins with one of 12 system prompts, chosen with probability proportional to 1 / rank, of 1 to 8
  whole blocks;
- turns are geometric with mean 3; a user's message is log-normal with median 600 tokens and sigma 1.2, an
  answer with median 300 and sigma 0.6; a prompt is the whole conversation so far, at most 120,000 tokens;
- between an answer and the next message pass log-normal times with median 60 s and sigma 1;
- a prompt's last block, if not full, is its own: the next turn fills it differently.
"""

from __future__ import annotations

import argparse
import json
import random
import sys

BLOCK_TOKENS = 512
PROMPT_TOKENS_MAX = 120_000
HOUR_MS = 3_600_000
SYSTEM_PROMPTS = 12
TURNS_MEAN = 3


def tokens(rng: random.Random, median: float, sigma: float) -> int:
    return max(1, round(rng.lognormvariate(0, sigma) * median))


def make_requests(sessions: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    ids: dict[tuple, int] = {}
    system_blocks = [rng.randint(1, 8) for _ in range(SYSTEM_PROMPTS)]
    weights = [1 / rank for rank in range(1, SYSTEM_PROMPTS + 1)]
    drafts = []
    for session in range(sessions):
        system = rng.choices(range(SYSTEM_PROMPTS), weights)[0]
        length = system_blocks[system] * BLOCK_TOKENS
        now = rng.uniform(0, HOUR_MS)
        turn = 0
        while now < HOUR_MS and length < PROMPT_TOKENS_MAX:
            length += tokens(rng, 600, 1.2)
            length = min(length, PROMPT_TOKENS_MAX)
            answer = tokens(rng, 300, 0.6)
            names = [("system", system, i) if i < system_blocks[system] else ("session", session, i)
                     for i in range(length // BLOCK_TOKENS)]
            if length % BLOCK_TOKENS:
                names.append(("tail", session, turn))
            drafts.append((round(now), length, answer, names))
            length += answer
            turn += 1
            if rng.random() < 1 / TURNS_MEAN:
                break
            now += 20 * answer + 1000 * rng.lognormvariate(0, 1) * 60
    drafts.sort(key=lambda draft: draft[0])
    return [{"timestamp": now, "input_length": length, "output_length": answer,
             "hash_ids": [ids.setdefault(name, len(ids)) for name in names]}
            for now, length, answer, names in drafts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("output", help="file to write")
    arguments = parser.parse_args()
    requests = make_requests(arguments.sessions, arguments.seed)
    with open(arguments.output, "w", encoding="utf-8") as output:
        for request in requests:
            output.write(json.dumps(request) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
