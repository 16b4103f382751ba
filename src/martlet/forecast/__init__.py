"""What a run will take, before it is run: tokens, memory, time, price."""
