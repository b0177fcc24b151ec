"""Acceptance runs of the DICOM node with figures: throughput, kill -9, slow clients. See docs/benchmarks-dicom.md."""
