"""The paper's claims, each measured by one command: `acmix paper decompose`, `ablation`, `paths`, `speed`, `figure`."""
