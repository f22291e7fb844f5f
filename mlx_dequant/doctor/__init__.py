"""What `mlx-dequant doctor` examines: the machine, every program against the reference, and speed."""
