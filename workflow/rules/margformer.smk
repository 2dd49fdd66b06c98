# MargFormer and MargNet: the sets, the trainings, what is drawn from them, and the audit on real data.
from astro_utils import registry

MARGFORMER = f"{RESULTS}/margformer"
MARGFORMER_PUBLISHED = sorted(str(p) for p in Path("data/published/margformer").glob("*"))


rule margformer_sets:
    input:
        notebook="notebooks/margformer/1_sets.ipynb",
        modules=modules("notebooks/margformer/1_sets.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
    output:
        notebook="book/margformer/1_sets.ipynb",
        degraded=f"{MARGFORMER}/degraded.h5",
    params:
        parameters=parameters("margformer/1_sets"),
        partial=partial("margformer/1_sets"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule margformer_train:
    input:
        notebook="notebooks/margformer/2_train.ipynb",
        modules=modules("notebooks/margformer/2_train.ipynb"),
        degraded=rules.margformer_sets.output.degraded,
    output:
        notebook="book/margformer/2_train.ipynb",
        metrics=f"{MARGFORMER}/metrics.json",
        answers=f"{MARGFORMER}/answers.parquet",
        network=f"{MARGFORMER}/ours.safetensors",
    params:
        parameters=parameters("margformer/2_train"),
        partial=partial("margformer/2_train"),
    priority: LONG
    threads: SHARE
    shell:
        EXECUTE


rule margformer_results:
    input:
        notebook="notebooks/margformer/3_results.ipynb",
        modules=modules("notebooks/margformer/3_results.ipynb"),
        metrics=rules.margformer_train.output.metrics,
        answers=rules.margformer_train.output.answers,
        network=rules.margformer_train.output.network,
        anchors="data/anchors.toml",
        published=MARGFORMER_PUBLISHED,
    output:
        notebook="book/margformer/3_results.ipynb",
    params:
        parameters=parameters("margformer/3_results"),
        partial=partial("margformer/3_results"),
    shell:
        EXECUTE


rule margformer_shift:
    input:
        notebook="notebooks/margformer/5_shift.ipynb",
        modules=modules("notebooks/margformer/5_shift.ipynb"),
        metrics=rules.margformer_train.output.metrics,
        answers=rules.margformer_train.output.answers,
        degraded=rules.margformer_sets.output.degraded,
        published=MARGFORMER_PUBLISHED,
    output:
        notebook="book/margformer/5_shift.ipynb",
        metrics=f"{MARGFORMER}/shift.json",
    params:
        parameters=parameters("margformer/5_shift"),
        partial=partial("margformer/5_shift"),
    shell:
        EXECUTE


rule margformer_conformal:
    input:
        notebook="notebooks/margformer/6_conformal.ipynb",
        modules=modules("notebooks/margformer/6_conformal.ipynb"),
        answers=rules.margformer_train.output.answers,
        published=MARGFORMER_PUBLISHED,
    output:
        notebook="book/margformer/6_conformal.ipynb",
        metrics=f"{MARGFORMER}/conformal.json",
    params:
        parameters=parameters("margformer/6_conformal"),
        partial=partial("margformer/6_conformal"),
    shell:
        EXECUTE


rule margformer_audit:
    input:
        notebook="notebooks/margformer/4_audit.ipynb",
        modules=modules("notebooks/margformer/4_audit.ipynb"),
        registry="data/registry.toml",
        published=MARGFORMER_PUBLISHED,
    output:
        notebook="book/margformer/4_audit.ipynb",
        metrics=f"{MARGFORMER}/audit/metrics.json",
    params:
        parameters=parameters("margformer/4_audit"),
        partial=partial("margformer/4_audit"),
        # Not used by the command: a dataset that has arrived since makes Snakemake run the audit again.
        data_at_hand=all(registry.available(name) for name in ("margnet_tables", "margnet_networks")),
    threads: SHARE
    shell:
        EXECUTE
