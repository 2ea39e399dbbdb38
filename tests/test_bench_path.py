"""The benchmark of path KL: its peers compute the same, and the documentation shows its results."""

import json

import torch

import gaussreg_fast as gf
from bench import ROOT, path_kl


def test_the_documented_table_is_that_of_the_results():
    results = json.loads((ROOT / "bench/results/path_kl.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs/control.md").read_text(encoding="utf-8")
    assert f"<!-- path_kl -->\n{path_kl.table(results)}\n<!-- /path_kl -->" in text


def test_peers_compute_the_same():
    dmu, sigma = torch.randn(3, 2, 50).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    torch.testing.assert_close(path_kl.naive(dmu, sigma), gf.path_kl(dmu, sigma))
    reward, group = torch.randn(30).double(), torch.arange(30) % 4
    got = path_kl.bisection(reward, group, 0.3, 0.5)
    want = gf.surrogate_reward(reward, "gamma", alpha=0.3, gamma=0.5, group=group)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
