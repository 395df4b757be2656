"""Merge methods: tensors in, one tensor out. One file per family."""

from __future__ import annotations

from evomerge.registry import Registry

METHODS: Registry[type] = Registry(
    "merge method",
    {
        "linear": "evomerge.merge.linear:Linear",
        "task_arithmetic": "evomerge.merge.linear:TaskArithmetic",
        "slerp": "evomerge.merge.spherical:Slerp",
        "nuslerp": "evomerge.merge.spherical:NuSlerp",
        "multi_slerp": "evomerge.merge.spherical:MultiSlerp",
        "karcher": "evomerge.merge.spherical:Karcher",
        "model_stock": "evomerge.merge.stock:ModelStock",
        "ties": "evomerge.merge.ties:Ties",
        "dare_linear": "evomerge.merge.dare:DareLinear",
        "dare_ties": "evomerge.merge.dare:DareTies",
        "della": "evomerge.merge.della:Della",
        "della_linear": "evomerge.merge.della:DellaLinear",
        "breadcrumbs": "evomerge.merge.breadcrumbs:Breadcrumbs",
        "breadcrumbs_ties": "evomerge.merge.breadcrumbs:BreadcrumbsTies",
        "sce": "evomerge.merge.sce:Sce",
        "magmax": "evomerge.merge.magmax:MagMax",
        "consensus_ta": "evomerge.merge.tall:ConsensusTaskArithmetic",
        "tall_mask": "evomerge.merge.tall:TallMask",
        "ram": "evomerge.merge.ram:Ram",
        "ram_plus": "evomerge.merge.ram:RamPlus",
        "arcee_fusion": "evomerge.merge.fusion:ArceeFusion",
        "nearswap": "evomerge.merge.nearswap:NearSwap",
        "tsv_merge": "evomerge.merge.spectral:TsvMerge",
        "iso_c": "evomerge.merge.spectral:IsoC",
        "iso_cts": "evomerge.merge.spectral:IsoCts",
        "knots_ties": "evomerge.merge.knots:KnotsTies",
        "wudi": "evomerge.merge.wudi:Wudi",
        "scaled": "evomerge.merge.passthrough:Scaled",
        "passthrough": "evomerge.merge.passthrough:Passthrough",
    },
    group="evomerge.merge_methods",
)

__all__ = ["METHODS"]
