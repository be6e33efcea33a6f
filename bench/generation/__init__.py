"""Drawing completions: pools of nested sample blocks, the engines that fill them, and the samplers' distributions."""
