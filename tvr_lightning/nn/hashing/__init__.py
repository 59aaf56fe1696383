"""What the hashing baselines compute: hash functions of mean features, joint similarities, factorisations."""
