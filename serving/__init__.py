"""longserve.serving: bundle → engine → Triton repository → client. No torch, no transformers."""
