"""DeepSeek-R1's recipe at a size that one core trains in minutes, with what thinking is worth at each stage."""
