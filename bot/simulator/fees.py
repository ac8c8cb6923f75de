"""Kraken's fee schedule for spot crypto pairs since 9 July 2026 (support article on cross-platform fee tiers)."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

FEE_WINDOW_SECONDS = 30 * 86400


@dataclass(frozen=True, slots=True)
class FeeTier:
    """Rates in percent from a 30-day volume in US dollars on."""

    min_volume: Decimal
    maker: Decimal
    taker: Decimal


FEE_TIERS = tuple(
    FeeTier(Decimal(volume), Decimal(maker), Decimal(taker))
    for volume, maker, taker in (
        ("0", "0.40", "0.80"),
        ("2500", "0.30", "0.60"),
        ("10000", "0.22", "0.38"),
        ("25000", "0.20", "0.35"),
        ("50000", "0.15", "0.30"),
        ("100000", "0.12", "0.25"),
        ("250000", "0.10", "0.22"),
        ("500000", "0.08", "0.20"),
        ("1000000", "0.06", "0.18"),
        ("2500000", "0.04", "0.15"),
        ("5000000", "0.02", "0.12"),
        ("10000000", "0.00", "0.10"),
    )
)


def fee_tier_at(volume: Decimal) -> FeeTier:
    """Return the tier of a 30-day volume."""
    return next(tier for tier in reversed(FEE_TIERS) if volume >= tier.min_volume)


def next_fee_tier(volume: Decimal) -> FeeTier | None:
    """Return the tier above that of a 30-day volume, or None at the top."""
    return next((tier for tier in FEE_TIERS if tier.min_volume > volume), None)
