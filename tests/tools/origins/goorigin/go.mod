module pymesh.dev/tests/goorigin

go 1.26.0
