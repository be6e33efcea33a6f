"""How much memory and time a configuration will take, before anything is downloaded; see bench.size."""
