"""How speed and memory are measured: A B A B, beside what the machine allows."""
