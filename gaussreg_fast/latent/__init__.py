"""Latent optimisation: experiments, latent files and the command line."""
