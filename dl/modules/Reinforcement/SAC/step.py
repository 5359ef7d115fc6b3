"""An update of SAC is three, of the critics, the actor and the temperature, by an optimizer each."""

from dl.modules.Reinforcement.off_policy import OffPolicyStep
from dl.mytorch.data import Batch


class SACStep(OffPolicyStep):
    """Algorithm 1 of the paper. All three use the temperature from before; the actor is judged by the new critics."""

    def improve(self, batch: Batch) -> None:
        critic, actor, temperature = self.optimizers
        self.update([batch], self.task.critic_step, critic)
        self.update([batch], self.task.actor_step, actor)
        self.update([batch], self.task.temperature_step, temperature)
        self.task.follow()
