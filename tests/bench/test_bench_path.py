"""The benchmark of path KL: its peers compute the same."""

import torch

import gaussreg_fast as gf
from bench.studies import path_kl


def test_peers_compute_the_same():
    dmu, sigma = torch.randn(3, 2, 50).double(), torch.tensor([0.5, 1.0, 2.0]).double()
    torch.testing.assert_close(path_kl.naive(dmu, sigma), gf.path_kl(dmu, sigma))
    reward, group = torch.randn(30).double(), torch.arange(30) % 4
    got = path_kl.bisection(reward, group, 0.3, 0.5)
    want = gf.surrogate_reward(reward, "gamma", alpha=0.3, gamma=0.5, group=group)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
