"""Files of other programs as named NumPy arrays, and networks whose weights the user supplies; knows no system."""
