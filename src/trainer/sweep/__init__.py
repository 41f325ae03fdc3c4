"""Many runs: what to run, what is finished, what they came to."""
