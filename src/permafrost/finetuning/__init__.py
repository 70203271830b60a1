"""Fine-tuning: cache what crosses the cut below the unfrozen layers, then train those. May import all but `cli`."""
