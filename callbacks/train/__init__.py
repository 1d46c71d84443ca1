"""What changes the training itself: seeds, devices, accumulation, clipping, schedules."""
