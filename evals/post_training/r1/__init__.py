"""DeepSeek-R1's recipe at a size that one core trains in minutes, with the effect of thinking at each stage."""
