"""Planning: what a stage needs of a machine before the machine is rented."""
