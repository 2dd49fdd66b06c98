# K-corrections: simulated galaxies, embeddings, predictors, results, real galaxies, the audit, a reader's own.
KCORRECTION = f"{RESULTS}/kcorrection"
KCORRECTION_PUBLISHED = sorted(str(p) for p in Path("data/published/kcorrection").glob("*"))


rule kcorrection_galaxies:
    input:
        notebook="notebooks/kcorrection/1_galaxies.ipynb",
        modules=modules("notebooks/kcorrection/1_galaxies.ipynb"),
        tables=sorted(str(p) for p in Path("data/sky").glob("*.ecsv")),
    output:
        notebook="book/kcorrection/1_galaxies.ipynb",
        samples=[
            f"{KCORRECTION}/{purpose}_{family}.h5"
            for purpose in ("pretrain", "task", "intervals")
            for family in ("kcorrect", "single_age")
        ],
    params:
        parameters=parameters("kcorrection/1_galaxies"),
        partial=partial("kcorrection/1_galaxies"),
    threads: SHARE
    shell:
        EXECUTE


rule kcorrection_embedding:
    input:
        notebook="notebooks/kcorrection/2_embedding.ipynb",
        modules=modules("notebooks/kcorrection/2_embedding.ipynb"),
        samples=rules.kcorrection_galaxies.output.samples,
        anchors="data/anchors.toml",
        published=KCORRECTION_PUBLISHED,
    output:
        notebook="book/kcorrection/2_embedding.ipynb",
        weights=f"{KCORRECTION}/astroclip_small.safetensors",
        metrics=f"{KCORRECTION}/embedding.json",
    params:
        parameters=parameters("kcorrection/2_embedding"),
        partial=partial("kcorrection/2_embedding"),
    threads: SHARE
    shell:
        EXECUTE


rule kcorrection_train:
    input:
        notebook="notebooks/kcorrection/3_train.ipynb",
        modules=modules("notebooks/kcorrection/3_train.ipynb"),
        samples=rules.kcorrection_galaxies.output.samples,
        weights=rules.kcorrection_embedding.output.weights,
    output:
        notebook="book/kcorrection/3_train.ipynb",
        metrics=f"{KCORRECTION}/metrics.json",
        predictions=f"{KCORRECTION}/predictions.parquet",
    params:
        parameters=parameters("kcorrection/3_train"),
        partial=partial("kcorrection/3_train"),
    threads: SHARE
    shell:
        EXECUTE


rule kcorrection_results:
    input:
        notebook="notebooks/kcorrection/4_results.ipynb",
        modules=modules("notebooks/kcorrection/4_results.ipynb"),
        metrics=rules.kcorrection_train.output.metrics,
        anchors="data/anchors.toml",
        published=KCORRECTION_PUBLISHED,
    output:
        notebook="book/kcorrection/4_results.ipynb",
    params:
        parameters=parameters("kcorrection/4_results"),
        partial=partial("kcorrection/4_results"),
    shell:
        EXECUTE


rule kcorrection_real:
    input:
        notebook="notebooks/kcorrection/5_real.ipynb",
        modules=modules("notebooks/kcorrection/5_real.ipynb"),
        tables=sorted(str(p) for p in Path("data/kcorrection").glob("*.ecsv")),
        published=KCORRECTION_PUBLISHED,
    output:
        notebook="book/kcorrection/5_real.ipynb",
        metrics=f"{KCORRECTION}/real.json",
    params:
        parameters=parameters("kcorrection/5_real"),
        partial=partial("kcorrection/5_real"),
    shell:
        EXECUTE


rule kcorrection_audit:
    input:
        notebook="notebooks/kcorrection/6_audit.ipynb",
        modules=modules("notebooks/kcorrection/6_audit.ipynb"),
        published=KCORRECTION_PUBLISHED,
    output:
        notebook="book/kcorrection/6_audit.ipynb",
        metrics=f"{KCORRECTION}/audit/metrics.json",
    params:
        parameters=parameters("kcorrection/6_audit"),
        partial=partial("kcorrection/6_audit"),
    shell:
        EXECUTE


rule kcorrection_own:
    input:
        notebook="notebooks/kcorrection/7_own.ipynb",
        modules=modules("notebooks/kcorrection/7_own.ipynb"),
        published=KCORRECTION_PUBLISHED,
    output:
        notebook="book/kcorrection/7_own.ipynb",
        answers=f"{KCORRECTION}/own_k.csv",
    params:
        parameters=parameters("kcorrection/7_own"),
        partial=partial("kcorrection/7_own"),
    shell:
        EXECUTE
