"""Who a workload is: tokens prove it once, certificates prove it to everybody else."""
