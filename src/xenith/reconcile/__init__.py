"""Convergence without input: reconcilers that compare, plan and execute, and what runs them."""

from xenith.reconcile.loop import ReconcilerLoop
from xenith.reconcile.reconciler import Reconciler, Report

__all__ = ["Reconciler", "ReconcilerLoop", "Report"]
