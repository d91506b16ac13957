"""Conformance: every part against data whose answer is known, our own registry, another library, or a model folder.

A claim is a sentence that can fail, a finding is what one measurement said of one part, and a report is findings as a table and as JSON.
"""

from inkwash.verify.claim import Claim, Finding, Report

__all__ = ["Claim", "Finding", "Report"]
