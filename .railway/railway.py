"""What the bot needs on Railway: one instance, a volume, time to stop. Used by `railway config plan` and `apply`.

These need `pip install railway-sdk`; the bot does not. docs/deploying.md has the recipe.
"""

import re
from pathlib import Path

from railway_sdk import Project, define_railway, github, preserve, project, service, volume

# Such as "owner/kraken-bot", to deploy what is pushed to its branch main; without one, `railway up` sends this folder.
REPOSITORY = ""
# Where service and volume are. Another region later means another volume, and so another disk for the state.
REGION = "us-west2"

EXAMPLE = Path(__file__).resolve().parent.parent / ".env.example"
# A variable that is not named here would be deleted by `apply`: what is set in the dashboard stays as it is.
SETTINGS = re.findall(r"^#([A-Z_]+)=", EXAMPLE.read_text("utf-8"), re.MULTILINE)


@define_railway
def main() -> Project:
    """Return the project; no value of a secret is in it."""
    # Half a gigabyte, which every plan allows. With a volume, Railway never runs two deployments at once.
    state = volume("kraken-bot-state", region=REGION, sizeMB=500)
    bot = service(
        "kraken-bot",
        source=github(REPOSITORY) if REPOSITORY else None,
        build={"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile"},
        replicas={REGION: 1},
        healthcheck="/healthz",
        deploy={
            "overlapSeconds": 0,
            # Between SIGTERM and SIGKILL; Railway's own default is 0, and the bot needs up to 5.
            "drainingSeconds": 30,
            # A bot on paper sends no packet, and would be put to sleep.
            "sleepApplication": False,
            # ALWAYS is not to be had on every plan.
            "restartPolicyType": "ON_FAILURE",
            "restartPolicyMaxRetries": 10,
        },
        volumeMounts={"/data": state},
        env={name: preserve() for name in SETTINGS},
    )
    return project("kraken-bot", resources=[state, bot])
