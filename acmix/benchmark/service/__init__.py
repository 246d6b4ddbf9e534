"""How `acmix serve` holds under load: good requests and bad ones, memory, a stop in the middle, batches."""
