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
            for purpose in ("pretrain", "task")
            for family in ("kcorrect", "single_age")
        ],
    params:
        parameters=parameters("kcorrection/1_galaxies"),
        partial=partial("kcorrection/1_galaxies"),
    threads: workflow.cores
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
    threads: workflow.cores
    shell:
        EXECUTE
