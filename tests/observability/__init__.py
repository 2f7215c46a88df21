"""What is told of traffic, held against those who read it: Prometheus, the OpenTelemetry Collector, istioctl."""
